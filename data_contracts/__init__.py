"""What is true of the data: contracts, the shapes of stored tables, run configs, settings, errors.

Nothing here reads data, writes data or imports torch, Prefect or MLflow.
"""
