"""One module for each kind of load. A scenario returns plain figures; what is expected of them is in expected.yaml."""
