"""The sections that vitlab hands to referee's page: cost, learning, tuning, images, methods, remarks."""
