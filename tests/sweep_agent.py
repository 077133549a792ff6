"""Run one parameter set as `wandb agent` does, by the agent's own code, with nobody at the other end.

`python sweep_agent.py SWEEP_ID RUN_ID '{"command": [...], "parameters": {NAME: VALUE}}'` ends with the run's exit code; with
`"type": "resume"` in it the run is one that the server hands out again. What is left out is the server that hands out parameter
sets: `sweep_draws.py` draws them.
"""

import json
import os
import sys

import wandb.env
from wandb.wandb_agent import Agent


def main() -> int:
    """Let the agent start the run, wait for it and return its exit code."""
    sweep_id, run_id, job = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    os.environ[wandb.env.SWEEP_ID] = sweep_id  # `run_agent` sets it
    agent = Agent(api=None, queue=None, sweep_id=sweep_id)
    agent._sweep_command = job["command"]  # the server says so when an agent registers
    drawn = {name: {"value": value} for name, value in job["parameters"].items()}
    told = {"type": job.get("type", "run"), "run_id": run_id, "program": "", "args": drawn}
    if failure := agent._process_command(told).get("exception"):
        raise RuntimeError(failure)
    return int(agent._run_processes[run_id].wait())


if __name__ == "__main__":
    sys.exit(main())
