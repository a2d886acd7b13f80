"""The driver: feeds the pure machines, carries out their effects, owns every task and timer. No third-party imports."""
