"""The rules: every fault that bncheck can tell, a file each."""
