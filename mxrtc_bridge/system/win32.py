"""What Windows has in place of calls of POSIX, by its own library. Empty elsewhere.

Files are opened so that they can be renamed and removed while they are open, as everywhere else, and directories so
that nobody can rename or remove them as long as they are: what is reached by their path then stays what was opened.
Sources: CreateFileW, GetFinalPathNameByHandleW, LockFileEx and SetFileTime in Microsoft's documentation of Win32.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import ctypes
    import errno
    import msvcrt
    import os
    from ctypes import wintypes

    _KERNEL = ctypes.WinDLL("kernel32", use_last_error=True)
    _READ, _WRITE, _APPEND = 0x80000000, 0x40000000, 0x0004 | 0x100000
    _SHARE_READ, _SHARE_WRITE, _SHARE_DELETE = 1, 2, 4
    _CREATE_NEW, _OPEN_EXISTING, _OPEN_ALWAYS = 1, 3, 4
    _ATTRIBUTE_DIRECTORY, _ATTRIBUTE_REPARSE_POINT = 0x10, 0x400
    _BACKUP_SEMANTICS, _OPEN_REPARSE_POINT = 0x02000000, 0x00200000
    _FAIL_IMMEDIATELY, _EXCLUSIVE = 1, 2
    _LOCK_VIOLATION = 33
    _LOCKED_AT = 0x7FFFFFFF
    """Upper half of the offset of the one byte that is locked: others could not read what is locked in the file."""
    _EPOCH_100NS = 116_444_736_000_000_000
    """From 1601 to 1970."""
    _NO_HANDLE = wintypes.HANDLE(-1).value
    _MAX_PATH_CHARS = 32_768
    _UTF8 = 65001
    _VIRTUAL_TERMINAL = 0x0004

    O_DIRECTORY, O_NOFOLLOW = 1 << 28, 1 << 29
    """Bits of flags that the C library does not use."""

    class _Overlapped(ctypes.Structure):
        _fields_ = (
            ("internal", ctypes.c_size_t),
            ("internal_high", ctypes.c_size_t),
            ("offset", wintypes.DWORD),
            ("offset_high", wintypes.DWORD),
            ("event", wintypes.HANDLE),
        )

    _KERNEL.CreateFileW.restype = wintypes.HANDLE
    _KERNEL.CreateFileW.argtypes = (
        wintypes.LPCWSTR,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.LPVOID,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.HANDLE,
    )
    _KERNEL.CloseHandle.argtypes = (wintypes.HANDLE,)
    _KERNEL.GetFinalPathNameByHandleW.argtypes = (wintypes.HANDLE, wintypes.LPWSTR, wintypes.DWORD, wintypes.DWORD)
    _KERNEL.LockFileEx.argtypes = (
        wintypes.HANDLE,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.DWORD,
        ctypes.POINTER(_Overlapped),
    )
    _KERNEL.UnlockFileEx.argtypes = (
        wintypes.HANDLE,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.DWORD,
        ctypes.POINTER(_Overlapped),
    )
    _KERNEL.SetFileTime.argtypes = (wintypes.HANDLE, wintypes.LPVOID, wintypes.LPVOID, wintypes.LPVOID)
    _KERNEL.GetStdHandle.restype = wintypes.HANDLE
    _KERNEL.GetConsoleMode.argtypes = (wintypes.HANDLE, wintypes.LPDWORD)
    _KERNEL.SetConsoleMode.argtypes = (wintypes.HANDLE, wintypes.DWORD)

    def open_file(path: str, flags: int) -> int:
        """Open a file or, with O_DIRECTORY, a directory; no link and no other reparse point with O_NOFOLLOW.

        Args:
            path: of it.
            flags: as of :func:`os.open`, and the two above.

        Raises:
            OSError: as the system says; ELOOP for a link, ENOTDIR for what is no directory, a link to one included.
        """
        wants_directory = bool(flags & O_DIRECTORY)
        access = _READ
        if flags & (os.O_WRONLY | os.O_RDWR):
            access = _APPEND if flags & os.O_APPEND else _WRITE
            access |= _READ if flags & os.O_RDWR else 0
        share = _SHARE_READ | _SHARE_WRITE | (0 if wants_directory else _SHARE_DELETE)
        how = _OPEN_EXISTING
        if flags & os.O_CREAT:
            how = _CREATE_NEW if flags & os.O_EXCL else _OPEN_ALWAYS
        # Without it a link to a directory could not even be seen to be one.
        more = _BACKUP_SEMANTICS | (_OPEN_REPARSE_POINT if flags & O_NOFOLLOW else 0)
        handle = _KERNEL.CreateFileW(path, access, share, None, how, more, None)
        if handle == _NO_HANDLE:
            raise _failed(path)
        try:
            descriptor = msvcrt.open_osfhandle(handle, flags & (os.O_APPEND | os.O_NOINHERIT) | os.O_BINARY)
        except OSError:
            _KERNEL.CloseHandle(handle)
            raise
        try:
            attributes = os.fstat(descriptor).st_file_attributes
        except OSError:
            os.close(descriptor)
            raise
        number = 0
        if flags & O_NOFOLLOW and attributes & _ATTRIBUTE_REPARSE_POINT:
            number = errno.ENOTDIR if wants_directory else errno.ELOOP
        elif wants_directory and not attributes & _ATTRIBUTE_DIRECTORY:
            number = errno.ENOTDIR
        if number:
            os.close(descriptor)
            raise OSError(number, os.strerror(number), path)
        return descriptor

    def path_of(descriptor: int) -> str:
        """Return where an open file or directory is, in the form that has no names of devices and no limit of 260.

        Raises:
            OSError: as the system says.
        """
        path = ctypes.create_unicode_buffer(_MAX_PATH_CHARS)
        if not _KERNEL.GetFinalPathNameByHandleW(msvcrt.get_osfhandle(descriptor), path, _MAX_PATH_CHARS, 0):
            raise _failed(None)
        return path.value

    def lock(descriptor: int, *, shared: bool, wait: bool) -> None:
        """Lock a file for this process, in place of a lock that it may have.

        Raises:
            BlockingIOError: somebody else has it, and it is not waited for.
            OSError: as the system says.
        """
        handle, where = msvcrt.get_osfhandle(descriptor), _Overlapped(offset_high=_LOCKED_AT)
        _KERNEL.UnlockFileEx(handle, 0, 1, 0, ctypes.byref(where))
        how = (0 if shared else _EXCLUSIVE) | (0 if wait else _FAIL_IMMEDIATELY)
        if not _KERNEL.LockFileEx(handle, how, 0, 1, 0, ctypes.byref(where)):
            if ctypes.get_last_error() == _LOCK_VIOLATION:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            raise _failed(None)

    def set_times(descriptor: int, modified_ns: int) -> None:
        """Set when an open file was modified last, and when it was read.

        Raises:
            OSError: as the system says.
        """
        time = ctypes.c_uint64(modified_ns // 100 + _EPOCH_100NS)
        if not _KERNEL.SetFileTime(msvcrt.get_osfhandle(descriptor), None, ctypes.byref(time), ctypes.byref(time)):
            raise _failed(None)

    def prepare_console() -> None:
        """Have the console take UTF-8, and what moves the cursor, as terminals do; what it cannot, it leaves."""
        _KERNEL.SetConsoleOutputCP(_UTF8)
        for number in (-11, -12):
            handle, mode = _KERNEL.GetStdHandle(number), wintypes.DWORD()
            if _KERNEL.GetConsoleMode(handle, ctypes.byref(mode)):
                _KERNEL.SetConsoleMode(handle, mode.value | _VIRTUAL_TERMINAL)

    def _failed(path: str | None) -> OSError:
        return ctypes.WinError(ctypes.get_last_error()) if path is None else _with(path, ctypes.get_last_error())

    def _with(path: str, number: int) -> OSError:
        return OSError(0, ctypes.FormatError(number), path, number)
