"""Back end `torch-export`: programs saved by torch.export.save, run as they are."""
