"""Commands that `editing` adds to the `visdiff` command, one module each."""
