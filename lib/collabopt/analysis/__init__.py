"""What a trained stage is worth: evaluation, audit, known problems, sensitivity, and the published figures."""
