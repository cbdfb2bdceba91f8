"""``uvicorn app.main:app``: the application, configured by the environment."""

from app import logs
from app.factory import create_app
from app.settings import Settings

settings = Settings()
logs.configure(settings.log_level)
app = create_app(settings)
