"""Files and directories, written completely or not at all.

Everything the project keeps is written through this package, with one promise. A file or directory is written under another
name beside its destination; its data is flushed to the disk (fsync); it is renamed into place; and the directory that holds
the name is flushed, too. A kill or a power failure at any moment therefore leaves the old content or the new one, and once a
function here has returned, the new one. Permissions follow the umask, whatever a library's writer sets.

A place in a bucket (``gs://``, ``s3://``) is accepted wherever a path is. There, an object is written by one request, which
the store carries out in full or not at all, and a directory counts with its manifest; ``buckets`` says how one replaces
another.

``paths`` tells the two kinds apart, ``buckets`` makes the requests, ``copies`` keeps local copies of what is read, and
``leases`` are locks. ``atomic`` writes single files, ``directories`` whole directories, ``overwriting`` says which of them
may be replaced, ``manifest`` seals a directory with the hashes of its files, ``hashes`` computes them, and
``compressed`` opens what may be gzip. Only ``directories._swap`` assumes that a directory can be renamed.
"""
