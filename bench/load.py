"""Realistic users against the service, without a browser: ``make load`` writes ``bench/results/load.html``."""

import argparse
import os
import subprocess
from pathlib import Path

from bench import photos
from bench.scenarios import newest_int8, service
from bench.servers import PEERS, RESULTS, interpreter, running

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def main() -> None:
    """Starts the service and locust, and stops both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--photos", type=Path)
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    report = RESULTS / "load.html"
    with running(service(options.model or newest_int8()), photos.read(options.photos, 1)[0]) as (url, _, _):
        command = [interpreter(PEERS / "locust.txt"), "-m", "locust", "--locustfile", str(LOCUSTFILE)]
        command += ["--headless", "--host", url, "--users", str(options.users), "--spawn-rate", "10", "--only-summary"]
        command += ["--run-time", f"{options.seconds}s", "--html", str(report), "--exit-code-on-error", "1"]
        named = {"PHOTOS": str(options.photos.resolve())} if options.photos else {}
        code = subprocess.run(command, env=os.environ | named, check=False).returncode
    print(f"report: {report}")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
