"""The parts of the page, one for each thing that models do. Each asks the server for one kind of call."""
