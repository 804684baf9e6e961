"""The floor of a step, which shardstep_bench measures: moving a step's bytes, and nothing else."""

import json
import pathlib
import subprocess
import tempfile

from gpt2 import count_parameters

_MPIRUN = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "mpirun.sh"


def run_shardstep_bench(bench, settings, steps):
    """A row of docs/performance.md: floor_ms, and step_ms of the same step without PyTorch. Weights are shared, which
    moves the fewest bytes."""
    _, elements = count_parameters(settings.size)
    model = settings.model if settings.model.startswith("gpt2-") else f"flat:{elements}"
    clip = "off" if settings.max_norm is None else settings.max_norm
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "rows"
        command = [str(_MPIRUN), str(settings.ranks), bench, f"--model={model}", f"--clip={clip}", f"--steps={steps}",
                   "--weights=shared", "--update_threads=1", f"--json={file}"]
        output = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if output.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} exited with {output.returncode}:\n{output.stderr}")
        return json.loads(file.read_text().splitlines()[0])
