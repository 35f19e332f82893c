"""All that is to be measured on a GPU, in steps that can be cut and continued: `make gpu`."""
