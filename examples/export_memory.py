"""
A policy with memory as a file for use without this package: TorchScript and ONNX, with the memory's state as input and
output, compared step by step with ``model.predict``::

    pip install onnx onnxscript onnxruntime   # for the ONNX part, which is left out without them
    python examples/export_memory.py --timesteps 20000

It writes policy.pt and policy.onnx into the present folder.
"""

import argparse
from importlib.util import find_spec

import numpy as np
import torch
from stable_baselines3.common.env_util import make_vec_env

from sb3_trpo_ext import RecurrentTRPO

FOR_ONNX = ("onnx", "onnxscript", "onnxruntime")
ENVS, STEPS = 8, 50


class Deterministic(torch.nn.Module):
    """Observations, whether episodes begin with them, and states → what ``predict(…, deterministic=True)`` returns."""

    def __init__(self, model: RecurrentTRPO):
        super().__init__()
        self.policy = model.policy

    def forward(
        self, observations: torch.Tensor, starts: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        distribution, (h, c) = self.policy.get_distribution(observations, (h, c), starts)
        return distribution.mode(), h, c


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=20_000)
    env = make_vec_env("CartPole-v1", ENVS, seed=0)
    model = RecurrentTRPO("MlpLstmPolicy", env, n_steps=128, seed=0, device="cpu").learn(parser.parse_args().timesteps)

    random = np.random.default_rng(0)
    observations = random.standard_normal((STEPS, ENVS, 4)).astype(np.float32)
    starts = (random.random((STEPS, ENVS)) < 0.1).astype(np.float32)
    zeros = [part.numpy() for part in model.policy.first_states(ENVS).pi]

    def compare(name: str, step: object) -> None:
        """Both go on from their own states."""
        expected_state, state, difference = tuple(zeros), list(zeros), 0.0
        for seen, start in zip(observations, starts, strict=True):
            expected, expected_state = model.predict(seen, expected_state, start, deterministic=True)
            actions, *state = step(seen, start, *state)
            assert (actions == expected).all()
            difference = max(difference, *(np.abs(a - b).max() for a, b in zip(state, expected_state, strict=True)))
        print(f"{name}: the same actions in {STEPS} steps, states differ by {difference:.1e} at most")

    # A distribution's checks of its parameters look at numbers, which there are none of while a network is exported.
    torch.distributions.Distribution.set_default_validate_args(False)
    policy = Deterministic(model).eval()
    example = tuple(map(torch.as_tensor, (observations[0], starts[0], *zeros)))
    with torch.no_grad():
        torch.jit.trace(policy, example).save("policy.pt")
        traced = torch.jit.load("policy.pt")
        compare("TorchScript", lambda *given: [part.numpy() for part in traced(*map(torch.as_tensor, given))])

    if missing := [name for name in FOR_ONNX if find_spec(name) is None]:
        print(f"ONNX is left out, as something is missing: pip install {' '.join(missing)}")
        return
    import onnxruntime

    torch.onnx.export(policy, example, "policy.onnx", external_data=False, verbose=False)
    session = onnxruntime.InferenceSession("policy.onnx")
    names = [one.name for one in session.get_inputs()]
    compare("ONNX", lambda *given: session.run(None, dict(zip(names, given, strict=True))))


if __name__ == "__main__":
    main()
