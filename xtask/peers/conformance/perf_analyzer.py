"""NVIDIA's load generator, as it is: it reads metadata, configuration and statistics, and asks by every way that it has."""

import os
import pathlib
import re
import subprocess

from cases import Different, case, holds, run

# As short as it goes: it is to be answered, not to measure.
BRIEFLY = (
    "--measurement-mode count_windows --measurement-request-count 20 --max-trials 3 --stability-percentage 999".split()
)
TENSOR = ["-m", "identity", "--shape", "x:256"]
TEXT = ["-m", "embedder", "--shape", "text:1", "--string-data", "a good film"]
WRITTEN = [
    "-m",
    "generator",
    "--shape",
    "text:1",
    "--string-data",
    "The tide",
    "--request-parameter",
    "max_tokens:4:int",
]
WAYS = {
    "gRPC": [*TENSOR, "-i", "grpc"],
    "gRPC, asynchronous": [*TENSOR, "-i", "grpc", "--async", "--concurrency-range", "4"],
    "gRPC, a stream": [*TENSOR, "-i", "grpc", "--streaming"],
    "gRPC, system shared memory": [*TENSOR, "-i", "grpc", "--shared-memory", "system"],
    "gRPC, several rows": ["-m", "linear", "--shape", "x:2,3", "-i", "grpc"],
    "gRPC, texts": [*TEXT, "-i", "grpc"],
    "gRPC, a model that writes": [*WRITTEN, "-i", "grpc", "--streaming", "--async"],
    "HTTP": [*TENSOR, "-i", "http"],
    "HTTP, system shared memory": [*TENSOR, "-i", "http", "--shared-memory", "system"],
    "HTTP, texts": [*TEXT, "-i", "http"],
}


def analysed(options):
    def check(arguments):
        program = pathlib.Path(arguments.perf_analyzer)
        # It is linked to CUDA's library without using it.
        libraries = next(program.parents[1].glob("lib/*/site-packages/nvidia/cuda_runtime/lib"), "")
        command = [program, *options, "-u", arguments.address, *BRIEFLY]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            last = (done.stdout + done.stderr).strip().splitlines()[-1:]
            raise Different(f"it ended with {done.returncode}: {' '.join(last)}")
        throughput = re.search(r"Throughput: ([0-9.]+) ", done.stdout)
        holds(throughput and float(throughput[1]) > 0, f"it measured nothing: {done.stdout[-300:]!r}")

    return check


for name, options in WAYS.items():
    case(name)(analysed(options))

if __name__ == "__main__":
    run("perf-analyzer")
