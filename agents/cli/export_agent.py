"""`ntm-rl export`: write an agent as an ONNX or `torch.export` file."""

import argparse
from typing import TYPE_CHECKING, Any

from ntm_rl.agents.cli.arguments import add_run, path
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.settings.paths import display_path
from ntm_rl.errors import printable

if TYPE_CHECKING:
    from ntm_rl.agents.runs.run import Run

EXAMPLES = (
    "ntm-rl export RUN agent.onnx",
    "ntm-rl export RUN agent.onnx --best --time",
    "ntm-rl export RUN agent.pt2",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "write an agent as a file for ONNX Runtime or torch.export"
    parser = add_command(commands, "export", export_command, summary, EXAMPLES)
    add_run(parser)
    parser.add_argument("file", type=path, metavar="FILE", help="output file, .onnx or .pt2; must not exist")
    parser.add_argument("--best", action="store_true", help="use the best agent of the training instead of the last")
    parser.add_argument("--channels-last", action="store_true", help="take images as [H, W, C] instead of [C, H, W]")
    parser.add_argument("--time", action="store_true", help="measure the CPU time of a step, also in PyTorch")


def export_command(options: argparse.Namespace) -> int:
    """Writes the file and prints its inputs and outputs."""
    from ntm_rl.agents.export.files import export_agent
    from ntm_rl.agents.export.timing import time_steps
    from ntm_rl.agents.runs.run import Run

    run = Run.open(options.run)
    run.require_trust(trust=options.trust)
    agent, masks, facts = _load(run, options.best)
    step = export_agent(agent, options.file, channels_last=options.channels_last, action_masks=masks, **facts)
    times = time_steps(step, options.file) if options.time else {}
    ports = {name: [port.row() for port in getattr(step, name)] for name in ("inputs", "outputs")}
    if options.json:
        print_json({"path": display_path(options.file), **facts, **ports, "microseconds": times})
        return 0
    print_lines(f"{display_path(options.file)}: one step of the core {step.core}, described in {options.file.name}.md")
    for name, rows in ports.items():
        print_lines(printable(f"{name}: {', '.join(row['name'] for row in rows)}"))
    for name, microseconds in times.items():
        print_lines(f"{name}: {microseconds:,.0f} µs of CPU time per step")
    return 0


def _load(run: "Run", best: bool) -> tuple[Any, bool, dict[str, str]]:
    """Returns the agent or network of a run, whether its actions are masked, and facts about it for the file."""
    from ntm_rl.agents.runs.loading import load_run_agent, load_run_network
    from ntm_rl.agents.settings.kinds import SUPERVISED

    settings = run.settings()
    settings.import_core()
    if settings.kind is SUPERVISED:
        network, origin = load_run_network(run, best=best)
        return network, False, {"task": run.supervised_settings().task.name, "trained": f"{origin.step} sequences"}
    agent = load_run_agent(run, best=best, device="cpu")
    env = run.ppo_settings().env
    return agent, env.action_masks is True, {"environment": env.id, "trained": f"{agent.origin.step} steps"}
