"""Watch processes: attribute their faults to segments, and write down what is seen."""
