"""Read files of events on your own machine; needs `pip install 'mixpanel-async[data]'`."""
