"""The published command line for CAPE motions, on top of ``python -m data.preprocess.motion``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.preprocess.motion import main  # noqa: E402

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of CAPE's subjects")
    parser.add_argument("--out-dir", type=Path, default=Path("load/animation"))
    parser.add_argument("--src-subj-name", default="male-3-casual", help="who wears the motion")
    parser.add_argument("--tgt-subj-name", default="00032", help="whose motion it is")
    parser.add_argument("--seq-name", default="shortlong_soccer")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--end", type=int, default=-1, help="last frame, inclusive; -1: all")
    parser.add_argument("--skip", type=int, default=1)
    parser.add_argument("--rotate", action="store_true", help="add 50 views around the last frame")
    options = parser.parse_args()
    motion = options.data_dir / options.tgt_subj_name / options.seq_name
    output = options.out_dir / options.src_subj_name / f"cape_{options.tgt_subj_name}_{options.seq_name}"
    stop = options.end + 1 if options.end >= 0 else len(list(motion.glob("*.npz")))
    arguments = [str(motion), "--output", str(output), "--relax", "hands", "feet", "--align", "position"]
    arguments += ["--frames", str(options.start), str(stop), str(options.skip)]
    sys.exit(main(arguments + (["--orbit", "50"] if options.rotate else [])))
