"""Is this machine right and fast? `python -m scripts.doctor` says so in a few minutes.

    from captioning.doctor.examination import examine
    report = examine(device, quick=False)       # printed as it goes
    report.wrong                                # the findings that are WRONG

    report        findings, verdicts, and how they are printed
    machine       what is there, and what is chosen for it
    agreement     the device computes what the CPU does; a stopped run goes on as if it never was
    yardsticks    what this machine can do at most, and how long a piece of work takes then
    speed         what it reaches in encoding, training and decoding, beside that
    trials        settings that are off by default, tried here
    sizes         how much is measured, on a CPU, on an accelerator and in tests
    examination   all of it in order
"""
