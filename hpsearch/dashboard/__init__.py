"""The web server for Optuna's dashboard and our pages."""
