"""Sets of clips compared by the features of networks: FVD and its relatives."""
