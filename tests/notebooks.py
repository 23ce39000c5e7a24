"""Run the notebooks of the examples, and store what they show: `python -m tests.notebooks`.

Each runs from top to bottom in a kernel of its own. Names choose some of them, as in
`python -m tests.notebooks customerio_02_people`. With `--into FOLDER` the results go there and
the notebooks stay as they are.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from pathlib import Path

from tests.forked_kernels import Forks

NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"
AT_ONCE = os.cpu_count() or 1
CELL_TIMEOUT = 60  # seconds
# The shell's history would be one more file for all kernels to share.
ARGUMENTS = ["--HistoryManager.enabled=False"]
# Kernels communicate through sockets in files, whose paths are limited to about 100 characters.
SHORT = "/tmp" if os.name == "posix" else None
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebooks(*names):
    """Return the paths of the notebooks of these names, or of all, in their order."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    unknown = set(names) - {path.stem for path in paths}
    if unknown:
        raise SystemExit(f"unknown notebooks: {', '.join(sorted(unknown))}")
    return [path for path in paths if not names or path.stem in names]


def client_of(notebook, path):
    """Return a client that runs a notebook in a kernel of its own."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=ARGUMENTS,
        record_timing=False,
        coalesce_streams=True,
    )
    if SHORT:
        manager = client.create_kernel_manager()
        manager.transport = "ipc"
        manager.connection_file = str(Path(os.environ["JUPYTER_RUNTIME_DIR"], f"{path.stem}.json"))
    return client


async def execute(path, target):
    """Run one notebook and write it with its outputs; return what went wrong, if anything did.

    What differs from run to run, or from one Python to another, is not written.
    """
    import nbformat
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    try:
        await client_of(notebook, path).async_execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return f"{path.name}: {error}"
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    nbformat.validate(notebook)
    nbformat.write(notebook, target)
    return None


async def execute_all(paths, folder=None):
    """Run notebooks, as many at once as there are processors; return what went wrong."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(path):
        async with free:
            return await execute(path, (folder or path.parent) / path.name)

    return [problem for problem in await asyncio.gather(*map(one, paths)) if problem]


def keep_to(folder):
    """Keep Jupyter and its kernels away from the user's own files."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        os.environ[name] = folder
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # no warning about frozen modules


@contextlib.contextmanager
def kernels_forked():
    """Fork the kernels inside the block, instead of starting each of them from the beginning."""
    from jupyter_client.provisioning import local_provisioner

    with Forks() as forks:
        local_provisioner.launch_kernel = forks.launch
        yield


def main():
    parser = argparse.ArgumentParser("python -m tests.notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--into", type=Path, metavar="FOLDER")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=SHORT) as folder:
        keep_to(folder)
        with kernels_forked() if hasattr(os, "fork") else contextlib.nullcontext():
            problems = asyncio.run(execute_all(notebooks(*chosen.names), chosen.into))
    for problem in problems:
        print(problem, file=sys.stderr)
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
