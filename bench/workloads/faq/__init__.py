"""The FAQ pipeline in its plain form: what the reference architecture's score script does for one question."""
