"""A deploy, seen from the client: it obtains the image, orders the deploy, and looks on.

overrides.py     what flags change in the config
inline.py        the files a config names, put into it
source.py        where the image comes from: a reference, or a build of the directory
remote_file.py   a Dockerfile from the web
deploy.py        image, order, waiting for another deploy, plan
follow.py        a deploy's events, from its beginning to its end
progress.py      what the user sees meanwhile
names.py         whether the app's name leads anywhere in the end
watch.py         waits for one machine; single machines and sizes, not deploys
"""
