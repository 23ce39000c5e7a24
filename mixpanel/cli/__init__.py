"""Run Mixpanel from the shell: `mp --help`. Needs `pip install 'mixpanel-async[cli]'`."""
