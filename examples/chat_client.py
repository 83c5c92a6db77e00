"""Talk to a running `tailorbird serve`, its key in TAILORBIRD_API_KEY: python examples/chat_client.py [URL]"""

import os
import sys

import openai

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
client = openai.OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("TAILORBIRD_API_KEY", "none"))
model = client.models.list().data[0].id
print(f"talking to {model}; an empty line ends")

messages = []
while question := input("> "):
    messages.append({"role": "user", "content": question})
    answer = ""
    # Busy servers answer 429 with the time to wait; the client tries again by itself.
    for chunk in client.chat.completions.create(model=model, messages=messages, max_tokens=256, stream=True):
        piece = chunk.choices[0].delta.content or ""
        answer += piece
        print(piece, end="", flush=True)
    print()
    messages.append({"role": "assistant", "content": answer})
client.close()
