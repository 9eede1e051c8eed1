"""The Open Inference Protocol over gRPC by NVIDIA's client: a classifier's answer, and a generator's piece by piece.

    pip install 'tritonclient[grpc]'
    python triton_client.py 127.0.0.1:8080 --classifier reviews --generator chat
"""

import argparse
import os
import queue

import numpy
import tritonclient.grpc as triton


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", default="127.0.0.1:8080", help="HOST:PORT")
    parser.add_argument("--classifier", metavar="MODEL", help="a model that gives texts labels")
    parser.add_argument("--generator", metavar="MODEL", help="a model that writes text")
    arguments = parser.parse_args()
    key = os.environ.get("TIDEMILL_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else None
    with triton.InferenceServerClient(arguments.address) as client:
        if arguments.classifier:
            classify(client, arguments.classifier, headers)
        if arguments.generator:
            generate(client, arguments.generator, headers)


def texts(name, values):
    """A BYTES tensor: each text is UTF-8."""
    array = numpy.array([value.encode() for value in values], dtype=numpy.object_)
    tensor = triton.InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array)
    return tensor


def classify(client, model, headers):
    reviews = ["a fine film", "un film médiocre"]
    # The deadline goes to the server too, which drops what is late before it reaches the model.
    answer = client.infer(model, [texts("text", reviews)], headers=headers, client_timeout=5.0)
    for review, label, probabilities in zip(reviews, answer.as_numpy("label"), answer.as_numpy("probabilities")):
        print(f"{label.decode()} {probabilities.max():.3f} {review}")


def generate(client, model, headers):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result), headers=headers)
    client.async_stream_infer(model, [texts("text", ["The tide"])], parameters={"max_tokens": 16, "temperature": 0.0})
    while True:
        answer = answers.get(timeout=60)
        if isinstance(answer, triton.InferenceServerException):
            raise answer
        # Each answer holds what is new; the last one says that it is.
        if (piece := answer.as_numpy("generated_text")) is not None and piece.size:
            print(piece[0].decode(), end="", flush=True)
        if answer.get_response().parameters["triton_final_response"].bool_param:
            break
    print()
    client.stop_stream()


if __name__ == "__main__":
    main()
