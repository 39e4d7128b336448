"""What goes over HTTP, one file per resource: bodies taken (`In`) and answers given (`Out`)."""
