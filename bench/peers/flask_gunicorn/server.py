"""Flask behind gunicorn: one route, one call of the model for each request."""

from flask import Flask, jsonify, request
from workloads.application import load

app = Flask(__name__)
model = load()


@app.post("/score")
def score():
    """Score one body."""
    body = request.get_json() if request.is_json else request.get_data()
    return jsonify(model.score_many([model.decode(body)])[0])
