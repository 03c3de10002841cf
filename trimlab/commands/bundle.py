"""Pack what a run needs for a machine without a network."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from trimlab.commands._quiet import quiet


def run(arguments: list[str]) -> None:
    """`trimlab bundle`: an archive in parts, and a script that makes an environment of it."""
    options = _parser().parse_args(arguments)

    quiet()
    from trimlab.bundling.bundle import Content, write_bundle
    from trimlab.bundling.machine import Machine, read_have
    from trimlab.commands._notes import print_notes

    have = read_have(options.have) if options.have else {}
    content = Content(
        machine=Machine(options.python, tuple(options.platform), have),
        base=options.base,
        dtype=options.dtype,
        tasks=[name.strip() for name in options.tasks.split(",") if name.strip()],
        data_root=options.data.root and options.data.root.expanduser(),
        extras=options.extras,
        packages=options.packages,
    )
    print_notes(write_bundle(content, options.out, int(options.part_mb * 1e6)))
    files = sorted(path for path in options.out.iterdir() if path.is_file())
    size = sum(path.stat().st_size for path in files)
    print(f"{options.out}: {len(files)} files, {size / 1e6:.1f} MB. Copy them to the machine, then")
    print(f"  sh {options.out.name}/unbundle.sh")


def _parser() -> Any:
    from typing import Literal

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="trimlab bundle",
        exit_on_error=False,
        description="Packs what a run needs for a machine without a network, as compute nodes are: "
        "the package and, from a clone, its experiments and baselines; the wheels that the machine "
        "lacks; a base model; rows. All of it is one archive in parts with checksums, beside a "
        "script that makes an environment on top of what the machine has. "
        "What the machine has: run `python3 -m pip list --format=freeze > node.txt` there, and "
        "give --have node.txt. "
        "Example: trimlab bundle --base smollm2-135m --tasks sciq,piqa --data.root data "
        "--python 3.12 --platform manylinux_2_28_x86_64 --have node.txt --out bundle",
    )
    add_list = partial(parser.add_argument, type=str, nargs="+", action="extend", default=[])
    parser.add_argument("--base", type=str | None, help="base model: embedded, folder, or hub id")
    parser.add_argument(
        "--dtype",
        type=Literal["float32", "float16", "bfloat16"] | None,
        help="type of its weights in the bundle; as stored if not given. Embedded models are "
        "stored in float32 and made of 4-bit weights, of which float16 (half the size) keeps more "
        "than bfloat16 does",
    )
    parser.add_argument("--tasks", type=str, default="", help="task names, with commas between")
    parser.add_argument("--data.root", type=Path | None, help="folder of their rows, else the hub")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--part-mb", type=float, default=60.0, help="largest file, in 10^6 bytes")
    parser.add_argument(
        "--python",
        type=str,
        default="{}.{}".format(*sys.version_info),
        help="the machine's Python, such as 3.12",
    )
    add_list(
        "--platform",
        help="the machine's platform, such as manylinux_2_28_x86_64 (older ones are included); by "
        "default this machine's",
    )
    parser.add_argument("--have", type=Path | None, help="what `pip list --format=freeze` prints")
    add_list("--extras", help="extras of trimlab")
    add_list("--packages", help="further packages, such as lm-eval bitsandbytes>=0.50")
    return parser
