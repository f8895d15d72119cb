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
        over, solved = False, False
        while not over and not solved:
            observation, _, terminated, truncated, info = environment.step(policy(observation))
            over, solved = terminated or truncated, info["success"]
    print(f"{'solved' if solved else 'not solved'} after {environment.steps} steps")
    environment.close()


if __name__ == "__main__":
    main()
