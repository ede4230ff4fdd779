"""When and where flows run: the command line, the Prefect deployments, the demo and its sample data."""
