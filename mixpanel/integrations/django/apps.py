"""The application that `INSTALLED_APPS` names."""

from django.apps import AppConfig

from mixpanel.integrations.django.configuration import configuration
from mixpanel.signals import flush_on_signal

__all__ = ["MixpanelConfig"]


class MixpanelConfig(AppConfig):
    """Checks the setting `MIXPANEL` when the project is set up; starts nothing."""

    name = "mixpanel.integrations.django"
    label = "mixpanel"
    verbose_name = "Mixpanel"

    def ready(self) -> None:
        """Check the setting.

        :raises ImproperlyConfigured: if it cannot work.
        """
        if configuration().flush_on_signal:
            flush_on_signal()
