"""New running statistics for old weights."""
