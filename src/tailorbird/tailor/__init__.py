"""One shared model, another one for every device: behaviour to a small patch, and when to ask for one.

What runs on a device (`manifest`, `patch`, `wire`, `head`, `device`, `requests`) needs numpy alone.
"""
