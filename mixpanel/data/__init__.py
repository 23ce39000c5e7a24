"""Read, keep and query events on your own machine; needs `pip install 'mixpanel-async[data]'`."""
