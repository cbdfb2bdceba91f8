"""Teaching in the browser: photos in folders, a model made from them in a child process, and which one is served."""
