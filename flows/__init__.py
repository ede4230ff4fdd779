"""One Prefect flow a file: the order of the steps and the one decision the flow exists for."""
