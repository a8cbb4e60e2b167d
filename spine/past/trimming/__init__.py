"""How long the log keeps events: the rule, who still needs which of them, and taking out the others."""
