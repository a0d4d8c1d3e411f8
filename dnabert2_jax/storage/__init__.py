"""Files and directories that are there whole or not at all.

Everything the project keeps is written through this package, with one promise. A file or directory is written under another
name beside its destination; its data is flushed to the disk (fsync); it is renamed into place; and the directory that holds
the name is flushed, too. A kill or a power failure at any moment therefore leaves the old content or the new one, and once a
function here has returned, the new one. Permissions follow the umask, whatever a library's writer sets.

``atomic`` writes single files, ``directories`` whole directories, ``overwriting`` says which of them may be replaced,
``manifest`` seals a directory with the hashes of its files, ``hashes`` computes them. Only ``directories._swap`` assumes
that a directory can be renamed.
"""
