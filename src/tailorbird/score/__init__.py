"""How much does each part matter? What the model's own output loses by a part in a format."""
