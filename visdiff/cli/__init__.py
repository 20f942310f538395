"""The ``visdiff`` command, one module per subcommand; `visdiff.cli.app` combines them."""
