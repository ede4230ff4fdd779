"""Steps that touch the world (lake, media, encoders, MLflow): plain functions with a thin Prefect task over each."""
