"""`make demo`: from a clean clone to generated text, for real, with everything a person wants to see on the way."""
