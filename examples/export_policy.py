"""
A policy as a file for use without this package: TorchScript and ONNX, compared with ``model.predict``::

    pip install onnx onnxscript onnxruntime   # for the ONNX part, which is left out without them
    python examples/export_policy.py --timesteps 20000

It writes policy.pt and policy.onnx into the present folder.
"""

import argparse
from importlib.util import find_spec

import numpy as np
import torch
from gymnasium import spaces

from sb3_trpo_ext import TRPO

FOR_ONNX = ("onnx", "onnxscript", "onnxruntime")


class Deterministic(torch.nn.Module):
    """From observations as the environment gives them to what ``predict(observations, deterministic=True)`` returns."""

    def __init__(self, model: TRPO):
        super().__init__()
        self.policy = model.policy
        assert isinstance(model.action_space, spaces.Box) and not self.policy.squash_output
        self.register_buffer("low", torch.as_tensor(model.action_space.low))
        self.register_buffer("high", torch.as_tensor(model.action_space.high))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        # The policy normalises observations itself, by statistics that go into the file with its weights. If
        # VecNormalize did it, what comes in here would have to be normalised by VecNormalize.normalize_obs first.
        actions = self.policy.get_distribution(observations).mode()
        return actions.clamp(self.low, self.high)  # as predict does it; discrete actions need no limits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=20_000)
    model = TRPO("MlpPolicy", "Pendulum-v1", gamma=0.9, seed=0, device="cpu").learn(parser.parse_args().timesteps)

    # Observations of every size: far from 0 they show whether normalisation and limits are in the file.
    random = np.random.default_rng(0).standard_normal((5, 100, 3))
    observations = np.concatenate(random * np.array([0.01, 1, 10, 1e3, 1e6])[:, None, None]).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)

    def compare(name: str, actions: np.ndarray) -> None:
        print(f"{name}: largest difference of {len(actions)} actions is {np.abs(actions - expected).max():.1e}")

    # A distribution's checks of its parameters look at numbers, which there are none of while a network is exported.
    torch.distributions.Distribution.set_default_validate_args(False)
    policy, example = Deterministic(model).eval(), torch.as_tensor(observations)
    with torch.no_grad():
        torch.jit.trace(policy, example).save("policy.pt")
        compare("TorchScript", torch.jit.load("policy.pt")(example).numpy())

    if missing := [name for name in FOR_ONNX if find_spec(name) is None]:
        print(f"ONNX is left out, as something is missing: pip install {' '.join(missing)}")
        return
    import onnxruntime

    batch = {"observations": {0: torch.export.Dim("batch")}}  # any number of observations at a time
    torch.onnx.export(policy, (example,), "policy.onnx", dynamic_shapes=batch, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession("policy.onnx")
    compare("ONNX", session.run(None, {"observations": observations})[0])


if __name__ == "__main__":
    main()
