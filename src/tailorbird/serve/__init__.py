"""Serving a model over HTTP, in the shape of OpenAI's API (extra ``serve``)."""
