"""Looking after servers, namespaces and agents: what the commands of an operator do."""
