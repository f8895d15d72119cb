"""Plays an episode with a policy that another process serves.

    polydit serve runs/demo_robot
    python examples/robotics/remote_client.py --url ws://127.0.0.1:8642 --environment metaworld/reach-v3
"""

from __future__ import annotations

import argparse

from polydit.domains.robotics.client import RemotePolicy
from polydit.envs import make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://127.0.0.1:8642")
    parser.add_argument("--environment", default="metaworld/reach-v3")
    parser.add_argument("--seed", type=int, default=100_000)
    options = parser.parse_args()
    environment = make(options.environment)
    with RemotePolicy(options.url, environment.instruction, options.seed) as policy:
        observation, _ = environment.reset(seed=options.seed)
        for step in range(1, environment.max_steps + 1):
            observation, _, terminated, truncated, info = environment.step(policy(observation))
            if info["success"] or terminated or truncated:
                break
    print(f"{'solved' if info['success'] else 'not solved'} after {step} steps")
    environment.close()


if __name__ == "__main__":
    main()
