"""``uvicorn app.main:app``: the application, configured by the environment."""

from app import logs
from app.errors import SettingsError
from app.factory import create_app
from app.settings import Settings
from app.wire import bound_numbers

settings = Settings()
if settings.tls_certificate:
    raise SettingsError(
        "CLASSIFIER_TLS_CERTIFICATE: uvicorn does not read it. Start the service with 'python -m app', or give uvicorn "
        "--ssl-certfile and --ssl-keyfile instead."
    )
logs.configure(settings.log_level)
bound_numbers()
app = create_app(settings)
