from mlxflow.cli.main import main

main()
