"""Starts Azure ML's inference server on loopback; its own command line knows only all interfaces.

Run by test_azureml_server.py in an environment that has azureml-inference-server-http, with that program's arguments.
"""

import sys

from azureml_inference_server_http import constants

constants.DEFAULT_HOST = "127.0.0.1"

from azureml_inference_server_http import amlserver  # noqa: E402 -- it reads the address when imported

if __name__ == "__main__":
    sys.exit(amlserver.run())
