"""The LightningModule and what it is told to do."""
